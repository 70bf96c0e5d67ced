"""What a testnet adds where work is paid for: a chain, accounts with worthless money, and who has what at the end."""
