"""`python -m embedded.stripe_twin`."""

import sys

from embedded.stripe_twin.main import main

sys.exit(main())
