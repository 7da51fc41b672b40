package usbhost

// What the external tests reach into.
var (
	ValidPath = validPath
	ParentOf  = parentOf
)

func ParseUevent(b []byte) (action, subsystem, kind string, ours, ok bool) {
	e, ok := parseUevent(b)
	return e.action, e.subsystem, e.kind, e.ours(), ok
}

func ParseDescriptors(b []byte) (vendor, product uint16, serialIndex uint8, interfaces int, err error) {
	d, err := parseDescriptors(b)
	return d.vendor, d.product, d.serialIndex, d.interfaces, err
}

func ParseCache(b []byte) (Wiring, bool) { return parseCache(b) }
