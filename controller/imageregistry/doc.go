// Package imageregistry is the controller's registry of container images: one that
// images are pushed to, and a cache through which those of Docker Hub come. Both are
// CNCF distribution's, taken as a library; what is here is what a cluster of Zeros on
// one card asks beside it:
//
//   - who may: everybody on the slots' network reads; to push takes a certificate of
//     the cluster, from that node's own address, that was not revoked (access.go);
//   - each layer once: distribution fetches a blob again for everybody who asks while
//     it is on its way; here the first to ask has it fetched, and all are given what
//     has come so far (fetch.go);
//   - a card that is never full: a quota for each, a part of the card that stays free,
//     the least used of the cache given up, and what no tag leads to removed while
//     nobody pushes (room.go, sweep.go).
//
// They are two registries, since distribution's cache takes no pushes, and on two
// ports, since engines before 24 take no path in registry-mirrors. The cache is at the
// first one's port too, below docker.io/.
package imageregistry
