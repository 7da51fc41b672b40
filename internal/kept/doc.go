// Package kept is what controller and nodes say to each other about what outlives
// a new root: Docker's named volumes, and paths that cluster.yaml names (keep:).
//
// Before a node's root is renewed the controller asks it what there is ([Plan], GET
// [Path] at the node) and fetches it as one archive (POST [PathStream] with an
// [Order]). The node with the new root asks the controller whether there is something for it
// ([Offer], GET [Path] at the controller), fetches it (GET [PathStream]), and tells
// when it is in place ([Receipt], POST [PathRestored]).
//
// The archive is a tar (POSIX.1-2001, pax) that is not compressed on the wire: a
// Zero's processor is slower at that than its link. Its entries lie under
// [Root.Entry]: volumes/NAME/_data/…, files/srv/data/…. Extended attributes,
// among them capabilities and ACLs, are SCHILY.xattr records, as GNU tar and star have
// them. A file with holes has a record [SparseRecord], and only its data. The
// digest of it all is the answer's trailer [Trailer]: an archive without one is not
// whole, and [FailureTrailer] says why.
package kept
