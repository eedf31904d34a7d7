"""The HTTP frontend of Analytics Zoo Cluster Serving (BigDL's since), on one model.

Sources: serving/http/FrontEndApp.scala of 0.11 and BigDL 2 (the `/models` routes) and of 0.10,
later Frontend2.scala (`/predict`, to which the Python client still posts). Statuses that upstream
has not, such as too large and too busy, are HTTP's own.
"""

from rayserve_app.protocols.cluster_serving.service import ClusterServing

__all__ = ["ClusterServing"]
