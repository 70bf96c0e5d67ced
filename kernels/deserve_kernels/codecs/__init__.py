"""Wire codecs: hidden states of packed tokens as the bytes that cross a link, and back.

`CODECS` names them: "raw" keeps every bit, "bf16" rounds, "int8" quantises groups of 64 values and keeps the four
largest of a token apart. The bytes of a tensor are the same whichever device packs it, and what is decoded from them is
the same wherever it is unpacked. Which job may use which codec is not decided here.
"""

from deserve_kernels.codecs.codec import CODECS, Codec

__all__ = ["CODECS", "Codec"]
