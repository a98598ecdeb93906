package audit

// keyring are the keys that the log itself names.
type keyring struct{}
