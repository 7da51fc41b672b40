// Package operation rebuilds and upgrades the cluster's slots: long work, of
// which each step is written down before it is begun, so that a service that
// was killed goes on where it was.
//
// A slot is drained, what outlives its root is saved, its root is renewed (by
// whom, the slot's kind decides: a [Renewer]), its node is waited for until it is
// Ready in the swarm and its agent has nothing left to do, and it gets back the
// labels and the availability that it had. Then the services are waited for that
// had their replicas before; and then the next slot's turn comes. What fails stops
// the others, and an upgrade goes back to the root before.
package operation
