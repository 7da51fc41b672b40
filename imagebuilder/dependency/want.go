package dependency

// A Want is a package that the user asks for.
type Want struct {
	Name    string // or Name:architecture
	Version string // exactly this one; "" is any
}

func (w Want) String() string {
	if w.Version != "" {
		return w.Name + "=" + w.Version
	}
	return w.Name
}
