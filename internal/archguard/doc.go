// Package archguard finds services that could land on a node whose processor
// none of their image's variants fits.
//
// Nobody else does. A Zero says of itself that it is armv6l, and an image says
// linux/arm/v6 or linux/arm/v7; the swarm's scheduler compares names only, so
// that Docker's client leaves the platforms of images for ARM out altogether.
// A task for ARMv7 is therefore put on a Zero, and dies there of its first new
// instruction, without a word (exit code 132 or 139), again and again.
//
// Three things are known of a service: where it may run (placement), what its
// image says that it is for (a Reader), and, where the image is at hand, what
// the programs in it are for (Variant.Programs). The last one wins. An image is
// marked with what its builder was asked for, not with what is in it: a Go
// compiler that runs on a Pi 3 and is not told GOARM=6 makes programs for
// ARMv7, and `docker build --platform linux/arm/v6` calls them ARMv6.
//
// linux/arm without a variant says nothing of the version. Docker takes it for
// v7, so it counts as that, unless the programs in it say otherwise.
package archguard
