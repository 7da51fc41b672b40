// Package adoption takes over clusters that were set up by other means: it
// learns what there is from an Ansible inventory, as the articles that hatchery
// grew out of have it, or from a running controller, and writes a cluster.yaml
// that says the same, with the swarm's stacks as stack files beside it.
//
// Nothing is guessed in silence. What could not be known, or was concluded from
// an order or a name, is a comment at its place in the file that says what to
// do; what cluster.yaml does not take is commented out with the reason. What a
// stack file cannot say of a service is found by reading the stack file again
// and comparing what comes of it with what the swarm has, so the list of it is
// whole.
//
// A running cluster is only looked at: one shell script goes over ssh, without
// root, and writes nothing there. Inventories, and all that a cluster answers,
// are foreign: they are bounded, and nothing of them is run or rendered.
package adoption
