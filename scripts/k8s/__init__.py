"""Holds the manifests against the code, without a cluster.

    python -m scripts.k8s [OVERLAY…]

renders every overlay, validates it against the schemas of three Kubernetes versions, and checks whatever a
manifest says of the code: commands, settings, secrets, ports, probes and who may speak to whom.
"""
