// Package imagebuilder is the pipeline: a cluster's specification in, layers
// and images out.
//
//	spec ──> base image (fetched, verified, decompressed, cached)
//	           └─> layer per target: overlays rendered, identity, accounts,
//	               first-boot scripts off, cmdline.txt, config.txt, PARTUUID
//	                 └─> image file, brought up to date
//
// Nothing here runs a foreign program, mounts anything or asks for root: the
// file systems in the image are edited by internal/ext4 and internal/bootpart
// through a copy-on-write layer (internal/layer) over the untouched base.
//
// Below it are its parts: baseimage (where a base comes from), release (what
// differs between the operating system's releases) and accounts (the user in
// passwd, shadow and their like).
package imagebuilder
