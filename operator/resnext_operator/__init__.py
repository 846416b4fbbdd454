"""The operator: runs each ResNeXtTraining as launcher and worker pods until it finishes."""
