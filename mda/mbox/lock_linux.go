package mbox

// setLock is F_OFD_SETLK, the fcntl command that takes a lock for an open file. It
// keeps out the usual locks of other programs, and unlike them also another open
// of the same file in this process, and is not lost when that one is closed.
const setLock = 37
