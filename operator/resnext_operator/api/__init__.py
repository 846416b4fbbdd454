"""The ResNeXtTraining API: models, validation and the CustomResourceDefinition. Pure."""
