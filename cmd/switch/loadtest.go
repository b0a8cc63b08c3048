package main

import (
	"github.com/spf13/cobra"
)

func loadtestCommand() *cobra.Command {
	return verbs("loadtest", "measure the switch with its own load rig", benchCommand(), kindsCommand())
}
