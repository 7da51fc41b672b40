// Package metrics is what the controller's service shows to Prometheus: where the
// slots stand, who joins, the swarm, its backups, what is being done and what was
// found; with the metrics of other parts of the service, from one registry.
//
// What there is, is in [Names], and in examples/alerts.yml what it is for. Nothing
// in it is secret, and nothing that a node says becomes the name of a metric; of
// what nodes say in labels, each slot has one series at a time.
package metrics
