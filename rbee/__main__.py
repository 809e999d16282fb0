"""`python -m rbee`"""

from rbee.cli import main

main()
