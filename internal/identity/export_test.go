package identity

// The parsers of the two state files, for the fuzz test.
func ParseRoot(data []byte) (cluster string, secret []byte, err error) {
	s, err := parseRoot(data)
	return s.Cluster, s.Secret, err
}

func ParseTarget(data []byte) (generation, hostKey int, err error) {
	s, err := parseTarget(data)
	return s.Generation, s.HostKey, err
}
