"""Pictures, QPs, encoders and containers: a plan goes in, a verified file and its read-back QPs and bits come out.

Knows nothing of machines or networks and never imports torch. Import the modules you need
(`codec_wrappers.vvenc`, `codec_wrappers.qpmap`, ...); this file loads none of them.
"""

__version__ = "0.1.0"
