package initramfs

// Needs lists the modules that a node needs which boots over its USB link: for
// its gadget's network function ("ecm" or "ncm", "" for ecm), and with its
// root in its own memory where ephemeral is set. What the kernel asks modprobe
// for while it works is among them, because there is no modprobe yet.
func Needs(ephemeral bool, gadget string) (needed, optional []string) {
	function, other := "usb_f_ecm", "usb_f_ncm"
	if gadget == "ncm" {
		function, other = other, function
	}
	needed = []string{
		"dwc2",         // the USB port's controller
		"configfs",     // gadgets are made in it
		"libcomposite", // …of these
		function,
		"usb_f_acm", // the gadget's console
		"8021q",     // the root's VLAN
		"nbd",
		"ext4",
	}
	optional = []string{
		other,
		"phy_generic",    // the port's transceiver, of mainline's device trees
		"crc32c_generic", // ext4's checksums
	}
	if ephemeral {
		needed = append(needed, "zram", "dm_mod", "dm_snapshot")
		optional = append(optional, "lzo_rle", "lzo", "lz4", "zstd") // zram's compressors, up to Linux 6.11
	}
	return needed, optional
}

// NeedsCard is Needs for a node whose card is written anew over its link, or else
// boots from that card. What drives the card is part of most kernels; the drivers are
// Raspberry Pi's own and mainline's, for every Zero.
func NeedsCard(gadget string) (needed, optional []string) {
	function, other := "usb_f_ecm", "usb_f_ncm"
	if gadget == "ncm" {
		function, other = other, function
	}
	needed = []string{"dwc2", "configfs", "libcomposite", function, "usb_f_acm", "ext4"}
	optional = []string{
		other,
		"phy_generic", "crc32c_generic",
		"mmc_block", "bcm2835_mmc", "bcm2835_sdhost", "bcm2835", "sdhci_iproc", "bcm2835_dma",
	}
	return needed, optional
}
