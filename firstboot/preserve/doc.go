// Package preserve is a node's end of what outlives a new root: it says what that
// would be and gives it to the controller as an archive ([Keeper.Handler]), and on a
// new root puts back what the controller has kept ([Keeper.Restore]). Package kept says how
// that goes over the wire, controller/preserve is the other end.
//
// What is kept lies on the file system that the root is on: Docker's named volumes of
// the local driver (moby volume/local: volumes/NAME/_data in Docker's folder, and
// opts.json where the volume is something mounted from elsewhere, which is not
// kept), and the paths of node.json. Owners by number, modes, times, extended attributes with
// capabilities and ACLs, hard links, holes, symbolic links, pipes and devices are as
// they were; sockets, which are nothing without who listens, and inode flags
// (chattr) are not kept.
//
// An archive is a node's own, but it may be that of a node that was not one's own any more
// when it was made, and a rebuild is the remedy for that. So nothing of it lands outside the volumes
// and the paths that the new root's node.json names, and it is unpacked into an empty
// folder, entry by entry below folders that it opened itself, before anything is put into place.
package preserve
