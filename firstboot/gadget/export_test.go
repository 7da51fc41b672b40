package gadget

// WithKernel has the calls that change something go elsewhere.
func (o Options) WithKernel(k interface {
	Mkdir(name string) error
	Write(name, text string) error
	Symlink(target, name string) error
}) Options {
	o.kernel = k
	return o
}
