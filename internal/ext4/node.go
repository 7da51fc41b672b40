package ext4

// A Node is all there is to say of a file but its content.
type Node struct {
	Info
	Target string            // of a symbolic link
	Xattrs map[string][]byte // nil where there are none
	// Err says why the rest is not known, or not all of it. Of a file whose
	// inode cannot be read there is no more than its name, inode and type.
	Err error
}

// ReadNodes lists a directory by name, as ReadDir does, with everything about
// each file: for whoever looks at all of them, it spares looking each name up
// again and again.
func (fs *FS) ReadNodes(path string) ([]Node, error) {
	list, err := fs.ReadDir(path)
	if err != nil {
		return nil, err
	}
	nodes := make([]Node, len(list))
	for i, e := range list {
		nodes[i] = fs.node(e)
	}
	return nodes, nil
}

func (fs *FS) node(e DirEntry) Node {
	in, err := fs.inode(e.Inode)
	if err != nil {
		return Node{Info: Info{Name: e.Name, Inode: e.Inode, Mode: e.Type}, Err: err}
	}
	n := Node{Info: in.info(e.Name)}
	if in.isSymlink() {
		n.Target, n.Err = fs.linkTarget(in)
	}
	attrs, err := fs.allXattrs(in)
	if err != nil {
		n.Err = err
	}
	if len(attrs) > 0 {
		n.Xattrs = attrs
	}
	return n
}
