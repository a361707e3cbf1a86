package simulation

// Breakage replaces some of what joins the packages of a process, to see that
// the witness notices.
type Breakage func(*process, seams) seams
