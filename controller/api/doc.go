// Package api is the description of every call that the controller's service, the
// nodes' agents and the page answer: an OpenAPI document. A test compares it with
// the handlers, so that it says neither more nor less than they do.
package api
