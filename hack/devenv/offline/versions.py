"""Versions of what is compiled."""

KUBERNETES = "v1.34.4"
CRANE = "v0.20.6"
COREDNS = "v1.12.1"  # required by kubeadm in this version of Kubernetes
ETCD = "3.6.5-0"  # required by kubeadm in this version of Kubernetes
PAUSE = "3.10"  # from kind's containerd configuration
