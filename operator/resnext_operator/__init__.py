"""The operator: turns each ResNeXtTraining into launcher and worker pods, and sees it through."""
