"""Ask the service in this container whether it serves (grpc.health.v1); the exit status is the answer.

Speaks plain text to the loopback address: with TLS settings, replace the health check of the image.
"""

import os
import sys

from carryover.client.errors import CarryoverError
from carryover.client.sync import Client

try:
    with Client(f"127.0.0.1:{os.environ.get('CARRYOVER_PORT', '8001')}") as client:
        sys.exit(0 if client.is_serving(timeout_s=3) else "not serving")
except CarryoverError as error:
    sys.exit(str(error))
