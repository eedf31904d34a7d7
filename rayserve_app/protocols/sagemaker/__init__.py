"""Amazon SageMaker: the hosting container's contract, and the runtime API as boto3 speaks it.

Sources: Amazon SageMaker developer guide, "Custom inference code with hosting services" and
"Contract for custom containers to serve multiple models"; botocore 1.43, service models
sagemaker-runtime 2017-05-13 and, for the four calls that SDKs make around predictions, sagemaker
2017-07-24. Signatures are not looked at.
"""

from rayserve_app.protocols.sagemaker.container import SageMaker
from rayserve_app.protocols.sagemaker.runtime import SageMakerRuntime

__all__ = ["SageMaker", "SageMakerRuntime"]
