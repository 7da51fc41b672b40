// Package page is the controller's web page: where every slot stands, live, and
// a few things that can be done with it. It is one page with a style sheet and a
// script, all embedded; what changes comes by server-sent events.
//
// Plain HTTP is served on the controller itself (127.0.0.1) and on the slots'
// network, HTTPS on all of the controller's networks where cluster.yaml says
// `serve: {listen: lan}`. Everybody who reaches it may look. Doing something
// takes the operator's token, and is refused over plain HTTP, but from the
// controller itself, which is where `hatchery page --on HOST` comes from through
// ssh.
//
// A page of somebody else in the same browser gets at nothing here: requests by
// another name than the controller's are refused (a name that was rebound to
// this address), those that do something must be of the same origin and carry the
// token in a header, and the policy lets the page load nothing but its own three
// files.
package page
