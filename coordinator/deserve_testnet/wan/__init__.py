"""An emulated internet for `--wan netns`: network namespaces in a star around one user-space emulator.

The kernel's own TCP in every namespace sees real delay and bandwidth. Needs Linux, root, iproute2 and /dev/net/tun;
`deserve_testnet.wan.internet` is the way in, everything else runs in the emulator's own process.
"""
