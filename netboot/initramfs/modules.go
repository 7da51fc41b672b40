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
