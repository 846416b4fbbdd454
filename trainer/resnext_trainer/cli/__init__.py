"""The commands of `resnext-train`. Parsers import nothing heavy; a command imports what it needs when it runs."""
