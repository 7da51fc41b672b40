// Package bootpart edits the boot partition of a Raspberry Pi OS image: its
// FAT32 file system (FS) and the two files on it that say how the Pi starts,
// cmdline.txt (Cmdline) and config.txt (Config).
//
// # Why the FAT32 writer is our own
//
// go-diskfs v1.9.4, which reads the partition table and judges this package
// in its tests, was measured first, and cannot be mended from outside:
//
//   - It takes the FAT's capacity for the number of clusters. The FAT is
//     rounded up to whole sectors, so on a full partition (34 MiB, 68,528
//     clusters, 68,608 entries) it stored a file's last sectors behind the
//     partition's end, where the root file system begins, and reported success.
//   - Every change writes both FATs whole: ten files of 3 kB on a 512 MiB
//     partition with one sector a cluster took 170 writes, 174 MB and 120 ms,
//     after 28 ms for opening. Here it is a few dozen sectors and under 10 ms.
//   - Times come from the wall clock, or from the environment of the whole
//     process; equal inputs must give byte-equal images.
//   - Two names may get the same 8.3 name ("a b.txt", "ab.txt"); names beyond
//     ASCII get wrong slot counts; a file of no bytes cannot be read; one
//     that is read in pieces is read past its end; a FAT that loops is
//     followed for ever; what Remove freed stays allocated.
//
// # How it works
//
// Open reads the FAT and every directory and checks them as fsck does: a
// partition that is not clean is refused, and what is accepted cannot make a
// later operation loop or run astray. Changes are made in memory; an
// operation that fails has changed nothing. Flush writes the sectors that
// differ from the device's, and no others, so that a layer of changed blocks
// stays small. All times are the caller's (SetTime).
package bootpart
