"""HTTP: connections, requests and responses, problem documents, hang-ups and the drain."""
