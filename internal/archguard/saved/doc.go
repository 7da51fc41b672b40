// Package saved looks into images as `docker save` and the engine write them: a
// tar of layers, or an OCI layout in a tar, with manifest.json. It says what
// each is for, and which programs a container of it sees, as the guard asks.
//
// It reads a stream, once, and keeps nothing of it but the names of its files
// and what its programs need: an engine can be asked for an image of many MB on
// a controller with a small card. A large program goes through a temporary
// file, one at a time.
//
// The stream is foreign: what it unpacks to, how many files it has and how long
// their names are is bounded.
package saved
