package slots_test

// timelines are boots, with what goes wrong in them.
var timelines = []struct{ summary, line string }{
	{"a boot", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		3s boot rom
		  3s rom → bootcode: its boot ROM is on USB
		4s usb gone
		5.5s file server
		  5.5s bootcode → files: it asks for boot files
		6s file: config.txt 1400/1400
		6.1s file: recovery.elf missing
		7s file: kernel.img 100000/7000000
		8s file: kernel.img 7000000/7000000
		8.5s status
		  8.5s files, 0 tries; kernel.img: 7000000 of 7000000 bytes
		9s files done
		  9s files → link: it has its boot files
		9s usb gone
		15s link up
		16s status
		  16s link, 0 tries; its link is up; it is awaited to open its root
		17s root attached: a
		  17s link → root: it has its root
		40s agent busy: docker
		45s status
		  45s root, 0 tries; its agent: docker
		60s agent ready
		  1m0s root → ready: its agent says that it is ready
		400s status
		  6m40s ready, 0 tries;
		`},
	{"a card is in the slot", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		  11s HAT: off
		  11s rom → off: power off
		  14s HAT: on
		  14s off → rom: power on
		40s status
		  40s rom, 1 tries; has power; its boot ROM is awaited on USB; next try in 31s: 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known
		  1m11s HAT: off
		  1m11s rom → off: power off
		  1m14s HAT: on
		  1m14s off → rom: power on
		  6m11s HAT: off
		  6m11s rom → off: power off
		  6m14s HAT: on
		  6m14s off → rom: power on
		  6m24s rom → failed: given up: 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known
		400s status
		  6m40s failed, 3 tries; 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known
		500s switch over
		  8m20s HAT: off
		  8m20s failed → off: power off
		  8m23s HAT: on
		  8m23s off → rom: power on
		503s status
		  8m23s rom, 0 tries; has power; its boot ROM is awaited on USB
		`},
	{"a card boots, though nobody asked it to", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		8s card link up
		  8s rom → card: it booted from a card
		900s card link down
		2000s status
		  33m20s card, 0 tries; booted from a card; its link is down
		2001s boot rom
		  33m21s card → bootcode: its boot ROM is on USB
		2002s status
		  33m22s bootcode, 0 tries; its boot ROM is on USB; its second stage is awaited
		`},
	{"the boot ROM stalls, and the second power cycle helps", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		2s boot rom
		  2s rom → bootcode: its boot ROM is on USB
		3s usb trouble: control transfer: timeout
		  17s HAT: off
		  17s bootcode → off: power off
		  20s HAT: on
		  20s off → rom: power on
		30s boot rom
		  30s rom → bootcode: its boot ROM is on USB
		  1m17s HAT: off
		  1m17s bootcode → off: power off
		  1m20s HAT: on
		  1m20s off → rom: power on
		100s boot rom
		  1m40s rom → bootcode: its boot ROM is on USB
		102s file server
		  1m42s bootcode → files: it asks for boot files
		103s files done
		  1m43s files → link: it has its boot files
		110s link up
		111s root attached: a
		  1m51s link → root: it has its root
		130s agent ready
		  2m10s root → ready: its agent says that it is ready
		429s status
		  7m9s ready, 2 tries;
		431s status
		  7m11s ready, 0 tries;
		`},
	{"files stall in the middle", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		2s boot rom
		  2s rom → bootcode: its boot ROM is on USB
		4s file server
		  4s bootcode → files: it asks for boot files
		5s file: start.elf 1000/3000000
		24s file: start.elf 2000/3000000
		  44s HAT: off
		  44s files → off: power off
		  47s HAT: on
		  47s off → rom: power on
		50s boot rom
		  50s rom → bootcode: its boot ROM is on USB
		52s file server
		  52s bootcode → files: it asks for boot files
		53s file: fixup.dat missing
		80s end
		`},
	{"the kernel does not start; given up after three power cycles; somebody asks for another try", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		2s file server
		  2s rom → files: it asks for boot files
		3s files done
		  3s files → link: it has its boot files
		  1m33s HAT: off
		  1m33s link → off: power off
		  1m36s HAT: on
		  1m36s off → rom: power on
		100s file server
		  1m40s rom → files: it asks for boot files
		101s files done
		  1m41s files → link: it has its boot files
		  3m11s HAT: off
		  3m11s link → off: power off
		  3m14s HAT: on
		  3m14s off → rom: power on
		200s file server
		  3m20s rom → files: it asks for boot files
		201s files done
		  3m21s files → link: it has its boot files
		  8m11s HAT: off
		  8m11s link → off: power off
		  8m14s HAT: on
		  8m14s off → rom: power on
		500s file server
		  8m20s rom → files: it asks for boot files
		501s files done
		  8m21s files → link: it has its boot files
		  9m51s link → failed: given up: 90s after its boot files, there is no link: its kernel does not start, or its initramfs or USB gadget fails; its console (ttypi2) may say why
		592s status
		  9m52s failed, 3 tries; 90s after its boot files, there is no link: its kernel does not start, or its initramfs or USB gadget fails; its console (ttypi2) may say why
		1000s retry
		  16m40s HAT: off
		  16m40s failed → off: power off
		  16m43s HAT: on
		  16m43s off → rom: power on
		1010s boot rom
		  16m50s rom → bootcode: its boot ROM is on USB
		1012s files done
		`},
	{"its root is refused", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		2s file server
		  2s rom → files: it asks for boot files
		3s usb gone
		  3s files → link: it left USB without saying that it has its files
		10s link up
		11s root refused: p2 is being reset
		12s root refused: p2 is being reset
		13s status
		  13s link, 0 tries; its link is up; it is awaited to open its root: p2 is being reset
		  1m10s HAT: off
		  1m10s link → off: power off
		  1m13s HAT: on
		  1m13s off → rom: power on
		80s end
		`},
	{"a failed slot recovers by itself", `
		0s found off
		  0s unknown → off: power off
		0s HAT breaks: off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		  11s HAT: off fails
		  1m11s HAT: off fails
		  6m11s HAT: off fails
		  6m11s rom → failed: given up: 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known; its power cannot be switched: the expander at 0x20 does not answer
		1000s status
		  16m40s failed, 3 tries; 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known; its power cannot be switched: the expander at 0x20 does not answer
		1001s boot rom
		  16m41s failed → bootcode: its boot ROM is on USB
		1003s file server
		  16m43s bootcode → files: it asks for boot files
		1004s files done
		  16m44s files → link: it has its boot files
		1010s link up
		1012s root attached: a
		  16m52s link → root: it has its root
		1100s agent ready
		  18m20s root → ready: its agent says that it is ready
		1101s status
		  18m21s ready, 3 tries;
		1500s status
		  25m0s ready, 0 tries;
		`},
	{"the controller restarts; the node is there", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s agent ready
		70s status
		  1m10s link, 0 tries; its link is up; it is awaited to open its root
		240s root attached: a
		  4m0s link → ready: it has its root
		1000s status
		  16m40s ready, 0 tries;
		`},
	{"the controller restarts; nothing is heard", `
		0s found on
		299s status
		  4m59s unknown, 0 tries; not heard of yet
		  5m0s HAT: off
		  5m0s unknown → off: power off
		301s status
		  5m1s off, 1 tries; between off and on of a power cycle
		  5m1s HAT: on
		  5m1s off → rom: power on
		`},
	{"the controller restarts; the slot waits in its boot ROM, and stalls", `
		0s found on
		1s boot rom
		  1s unknown → bootcode: its boot ROM is on USB
		  16s HAT: off
		  16s bootcode → off: power off
		  19s HAT: on
		  19s off → rom: power on
		20s end
		`},
	{"the root's server restarts", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		100s root detached: a the server ends
		  1m40s ready → lost: the root's connection ended: the server ends
		105s root attached: b
		  1m45s lost → ready: it has its root
		110s root attached: c
		111s root detached: b it was replaced
		120s root detached: c reset by peer
		  2m0s ready → lost: the root's connection ended: reset by peer
		121s link down
		  2m1s lost → lost: its link is down
		122s status
		  2m2s lost, 0 tries; its link is gone
		125s link up
		  2m5s lost → lost: its link is up
		126s root attached: d
		  2m6s lost → ready: it has its root
		127s status
		  2m7s ready, 0 tries;
		`},
	{"the root's connection does not come back", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		100s root detached: a reset by peer
		  1m40s ready → lost: the root's connection ended: reset by peer
		999s status
		  16m39s lost, 0 tries; its link is up, its root's connection is gone: reset by peer
		  16m40s HAT: off
		  16m40s lost → off: power off
		1001s end
		  16m41s HAT: on
		  16m41s off → rom: power on
		`},
	{"a node hangs", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		1000s link down
		  16m40s ready → lost: its link is down
		  18m40s HAT: off
		  18m40s lost → off: power off
		  18m43s HAT: on
		  18m43s off → rom: power on
		1125s end
		`},
	{"a node reboots; its last boot's connection never ends", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		1000s boot rom
		  16m40s ready → bootcode: its boot ROM is on USB
		1004s link up
		  16m44s bootcode → link: its link is up
		1012s root attached: b
		  16m52s link → root: it has its root
		1020s agent ready
		  17m0s root → ready: its agent says that it is ready
		1030s root detached: b reset by peer
		  17m10s ready → lost: the root's connection ended: reset by peer
		`},
	{"a node reboots; what its last boot left comes late", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		1000s boot rom
		  16m40s ready → bootcode: its boot ROM is on USB
		1000s link down
		1001s agent ready
		1002s root detached: a timeout
		1003s file server
		  16m43s bootcode → files: it asks for boot files
		1004s files done
		  16m44s files → link: it has its boot files
		1010s link up
		1012s root attached: b
		  16m52s link → root: it has its root
		1013s root detached: a timeout
		1014s status
		  16m54s root, 0 tries; has its root; its agent is awaited
		1020s agent ready
		  17m0s root → ready: its agent says that it is ready
		`},
	{"a node that reboots over and over", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		10s boot rom
		  10s rom → bootcode: its boot ROM is on USB
		11s file server
		  11s bootcode → files: it asks for boot files
		12s files done
		  12s files → link: it has its boot files
		13s link up
		14s root attached: a
		  14s link → root: it has its root
		20s boot rom
		  20s root → bootcode: its boot ROM is on USB
		21s file server
		  21s bootcode → files: it asks for boot files
		22s files done
		  22s files → link: it has its boot files
		23s link up
		24s root attached: b
		  24s link → root: it has its root
		30s boot rom
		  30s root → bootcode: its boot ROM is on USB
		40s boot rom
		41s file server
		  41s bootcode → files: it asks for boot files
		50s boot rom
		  50s files → bootcode: its boot ROM is on USB
		51s file server
		  51s bootcode → files: it asks for boot files
		60s boot rom
		  1m0s files → bootcode: its boot ROM is on USB
		61s file server
		  1m1s bootcode → files: it asks for boot files
		70s boot rom
		  1m10s files → bootcode: its boot ROM is on USB
		  1m10s HAT: off
		  1m10s bootcode → off: power off
		  1m13s HAT: on
		  1m13s off → rom: power on
		90s end
		`},
	{"a boot that goes back and forth", `
		0s found off
		  0s unknown → off: power off
		1s switch on
		  1s HAT: on
		  1s off → rom: power on
		10s boot rom
		  10s rom → bootcode: its boot ROM is on USB
		12s file server
		  12s bootcode → files: it asks for boot files
		30s file: a 1/9
		48s file: a 2/9
		66s file: a 1/9
		84s file: a 2/9
		100s files done
		  1m40s files → link: it has its boot files
		180s link up
		230s link down
		310s link up
		360s link down
		440s link up
		490s link down
		570s link up
		  10m1s HAT: off
		  10m1s link → off: power off
		602s end
		  10m2s HAT: on
		  10m2s off → rom: power on
		`},
	{"an agent that is heard but not ready", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent busy: no manager answers
		4000s agent busy: no manager answers
		8000s status
		  2h13m20s root, 0 tries; its agent: no manager answers
		`},
	{"an agent that is never heard", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		1801s status
		  30m1s root, 0 tries; has its root; its agent is awaited
		  30m2s HAT: off
		  30m2s root → off: power off
		  30m5s HAT: on
		  30m5s off → rom: power on
		1805s end
		`},
	{"powered off by hand", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		10s switch off
		  10s HAT: off
		  10s ready → off: power off
		10.5s boot rom
		  10.5s off → bootcode: its boot ROM is on USB
		  10.5s bootcode → off: power off
		30s status
		  30s off, 0 tries; no power
		1000s link up
		  16m40s off → link: its link is up
		  16m40s link → off: power off
		1030s status
		  17m10s off, 0 tries; no power
		2000s switch over
		  33m20s HAT: off
		  33m23s HAT: on
		  33m23s off → rom: power on
		2011s boot rom
		  33m31s rom → bootcode: its boot ROM is on USB
		`},
	{"powered off and on by another program", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		12s clusterctrl off
		  15s ready → off: power off
		100s clusterctrl on
		101s boot rom
		  1m41s off → bootcode: its boot ROM is on USB
		103s file server
		  1m43s bootcode → files: it asks for boot files
		110s end
		`},
	{"disabled", `
		0s found off
		  0s unknown → off: power off
		1s disable
		2s switch on
		  2s HAT: on
		  2s off → rom: power on
		1000s status
		  16m40s rom, 0 tries; has power; its boot ROM is awaited on USB
		1001s enable
		  16m41s HAT: off
		  16m41s rom → off: power off
		1002s status
		  16m42s off, 1 tries; between off and on of a power cycle
		  16m42s HAT: on
		  16m42s off → rom: power on
		`},
	{"no HAT", `
		0s no HAT
		1s switch on
		  1s error: the power of the slots cannot be switched from here: no ClusterHAT was found
		1s retry
		  1s error: the power of the slots cannot be switched from here: no ClusterHAT was found
		2s boot rom
		  2s unknown → bootcode: its boot ROM is on USB
		  17s bootcode → failed: given up: 15s after its boot ROM was seen, bootcode.bin does not run: a Zero 2 W may have to boot once from a card, or this bootcode.bin does not boot over USB. Its power cannot be switched from here: pull it out and put it in again
		400s status
		  6m40s failed, 0 tries; 15s after its boot ROM was seen, bootcode.bin does not run: a Zero 2 W may have to boot once from a card, or this bootcode.bin does not boot over USB. Its power cannot be switched from here: pull it out and put it in again
		401s file server
		  6m41s failed → files: it asks for boot files
		402s files done
		  6m42s files → link: it has its boot files
		403s link up
		404s root attached: a
		  6m44s link → root: it has its root
		`},
	{"no HAT; somebody pulls the slot out, and puts it in again", `
		0s no HAT
		1s power off
		  1s unknown → off: power off
		1000s status
		  16m40s off, 0 tries; no power
		1001s boot rom
		  16m41s off → bootcode: its boot ROM is on USB
		  16m56s bootcode → failed: given up: 15s after its boot ROM was seen, bootcode.bin does not run: a Zero 2 W may have to boot once from a card, or this bootcode.bin does not boot over USB. Its power cannot be switched from here: pull it out and put it in again
		1020s end
		`},
	{"switching on fails in a power cycle", `
		0s found on
		1s link up
		  1s unknown → link: its link is up
		2s root attached: a
		  2s link → root: it has its root
		3s agent ready
		  3s root → ready: its agent says that it is ready
		4s HAT breaks: on
		5s link down
		  5s ready → lost: its link is down
		130s status
		  2m10s lost, 0 tries; its link is gone
		  5m0s HAT: off
		  5m0s lost → off: power off
		  5m3s HAT: on fails
		  6m0s HAT: on fails
		600s status
		  10m0s off, 2 tries; between off and on of a power cycle: the expander at 0x20 does not answer; next try in 1m0s: its power was switched off and could not be switched on again: the expander at 0x20 does not answer
		  11m0s HAT: on fails
		  11m0s off → failed: given up: its power was switched off and could not be switched on again: the expander at 0x20 does not answer
		700s HAT mends: on
		701s retry
		  11m41s HAT: on
		  11m41s failed → rom: power on
		710s boot rom
		  11m50s rom → bootcode: its boot ROM is on USB
		`},
	{"it cannot be seen whether there is power", `
		0s found on
		0s HAT breaks: powered
		  5m0s HAT: off
		  5m0s unknown → off: power off
		  5m3s HAT: on
		  5m3s off → rom: power on
		  6m0s HAT: off
		  6m0s rom → off: power off
		  6m3s HAT: on
		  6m3s off → rom: power on
		  11m0s HAT: off
		  11m0s rom → off: power off
		  11m3s HAT: on
		  11m3s off → rom: power on
		  11m13s rom → failed: given up: 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known
		1000s status
		  16m40s failed, 3 tries; 10s after it got power, its boot ROM is not on USB: there is a bootable SD card in the slot, or no Zero, or the slot's USB path is not known
		`},
}
