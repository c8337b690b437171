"""Jobs over many neurons: any number of ids, any executor, a folder that survives a kill.

::

    client.bulk(root_ids).skeletons(out="skeletons/")    ->  BulkResult: .done .failures .dataset() .frame()

`kinds` fetches a batch of neurons, `folder` keeps what is written and what is done, `workers` does a batch, `job` hands
out the batches, `result` reads what they wrote.
"""

from __future__ import annotations

from cortexclient.bulk.job import Bulk
from cortexclient.bulk.result import BulkResult

__all__ = ["Bulk", "BulkResult"]
