package spec

// CheckKeyring is what looks at the key of an archive.
var CheckKeyring = checkKeyring
