package swarm

// ParseCertificate is for the fuzz test, which spares itself the file.
var ParseCertificate = parseCertificate
