// Package workload runs what cluster.yaml declares once the swarm is up: networks,
// secrets, configs and the services of stacks, through Docker's API.
//
// What is declared (package declared) is compared with what the swarm has, and what
// differs is made so; what does not is left alone, so that doing it again changes
// nothing. It is done when the nodes are Ready that it waits for, and again when what
// is declared changes or a secret is pushed.
//
// The swarm cannot change a secret or a config. Each is therefore made under a name
// with its version: NAME-0123456789ab, whose end is a keyed digest of the content. A
// changed one is another one, services that use it are updated, and the old one goes
// when nobody uses it. The key is made of the controller's own: a controller that was
// rebuilt finds its secrets again, and from the names nobody can try out what a weak
// one is.
//
// Everything that is made has the label [LabelOurs]. What somebody made by hand is
// never changed or removed.
package workload
