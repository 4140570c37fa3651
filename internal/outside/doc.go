// Package outside tests sendq as its users get it: modules from a module proxy, without go.work. The
// proxy has the working tree, as if it were released.
package outside
