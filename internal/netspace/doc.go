// Package netspace makes network namespaces for tests: small networks of cables
// between them, and programs that run in them. The names are unique on the
// machine, and everything goes with the test that made it, even if that is
// killed. It is for tests on Linux.
package netspace
