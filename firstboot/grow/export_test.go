package grow

// CutBefore has f called with the name of each step before it: "entry",
// "kernel", "file system".
func (o Options) CutBefore(f func(step string)) Options {
	o.cut = f
	return o
}

// ParseSuperblock gives the size of a file system in bytes.
func ParseSuperblock(b []byte) (size int64, err error) {
	fs, err := parseSuperblock(b)
	return fs.size(), err
}
