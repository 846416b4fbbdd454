"""Every rule of behaviour: what to do next about a training, judged by its own record and by what the cluster shows.

`decide` never asks which event came last, and it keeps no memory but the status. A plan deletes only evidence that the
status already records; a plan for a training at rest is empty.

`story` says what is done, in order; `startup` which starts failed; `rejections` what the API server rejected; `ending`
how an attempt ended; `record` what the status holds; `reasons` the words.
"""

from resnext_operator.policy.ending import FINAL, SETTLING
from resnext_operator.policy.reasons import Reason
from resnext_operator.policy.record import stamp
from resnext_operator.policy.refusals import refused
from resnext_operator.policy.rejections import rejected
from resnext_operator.policy.startup import BACKOFF_FIRST, BACKOFF_LAST
from resnext_operator.policy.story import decide

__all__ = ["BACKOFF_FIRST", "BACKOFF_LAST", "FINAL", "SETTLING", "Reason", "decide", "refused", "rejected", "stamp"]
