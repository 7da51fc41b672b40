// Package enrol is how nodes and their controller talk: HTTPS with mutual TLS
// 1.3 and JSON bodies, on port 7443 of the slots' network (docs/enrolment.md).
// It has the bodies, the client, and what both ends check of certificates. The
// service is package controller.
//
// Unknown fields are ignored on both ends, so that nodes and controller of
// different versions understand each other.
package enrol
