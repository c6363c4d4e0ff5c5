"""Where the messages of the Open Inference Protocol are registered: in a pool of their own.

Other packages, first of all the protocol's usual client, register messages of the same full names in protobuf's default
pool, which takes a name once. With a pool of our own both can live in one process, whichever is imported first; but not
with protobuf's pure Python implementation, whose generated code uses the default pool whatever it is told.
`.ci/generate-protos` makes the generated code use this one.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
