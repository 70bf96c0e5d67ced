"""What every participant speaks: identities, the libp2p host, framed links and the messages on them."""
