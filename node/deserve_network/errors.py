"""Everything that can go wrong between two participants, as one tree.

NetworkError
|-- AddressError      a multiaddress is malformed, or this host cannot listen on it
|-- CongestionError   the kernel does not have or not allow a congestion control
|-- IdentityError     the key file cannot be trusted or read
|-- DialError         a peer did not answer, is somebody else, or does not speak the protocol
|-- StreamClosed      a stream ended or was reset before what was asked for arrived
|-- ChannelClosed     a control channel ended, or its peer fell silent
|-- ProtocolError     a peer sent bytes outside the protocol
|   `-- SchemaError   bytes or a value do not form the message they claim to be
|-- LinkRefused       the two ends of a link do not agree on what they are building
|-- LinkLost          a link is over: not restored within its reconnect deadline, or closed
`-- ClosedByPeer      the other end closed a link in order; what `LinkLost` then comes from
"""

from __future__ import annotations

__all__ = [
    "AddressError",
    "ChannelClosed",
    "ClosedByPeer",
    "CongestionError",
    "DialError",
    "IdentityError",
    "LinkLost",
    "LinkRefused",
    "NetworkError",
    "ProtocolError",
    "SchemaError",
    "StreamClosed",
]


class NetworkError(Exception):
    """Root of the package's errors; the text names the peer or address concerned."""


class AddressError(NetworkError):
    """A multiaddress that cannot be used; the text quotes it."""


class CongestionError(NetworkError):
    """A congestion control that cannot be used; the text names it and what there is."""


class IdentityError(NetworkError):
    """A key file that cannot be used; the text names it and what to do."""


class DialError(NetworkError):
    """No stream to the peer; the text says at which step it failed."""


class StreamClosed(NetworkError):
    """The stream is over: closed or reset by either side, or its connection died."""


class ChannelClosed(NetworkError):
    """The control channel is over."""


class ProtocolError(NetworkError):
    """The peer sent something no honest peer sends; the stream is reset."""


class SchemaError(ProtocolError, ValueError):
    """Bytes or a value do not form the message they claim to be; the text names message and field."""


class LinkRefused(NetworkError):
    """Both ends answered, but name, peer or session do not match."""


class LinkLost(NetworkError):
    """The link is gone for good; frames that were not acknowledged may or may not have arrived."""


class ClosedByPeer(NetworkError):
    """The peer said that it is done with the link."""
