package packages

// Around has f called before and after each step that leaves a trace.
func (o Options) Around(f func()) Options {
	o.step = f
	return o
}

// ParseScripts gives the lines as packages/done has them.
func ParseScripts(text []byte) ([]string, error) {
	all, err := parseScripts(text)
	var lines []string
	for _, s := range all {
		lines = append(lines, s.line())
	}
	return lines, err
}

var ParseCalls = parseCalls
