#compdef vmm-tag
# zsh completion for vmm-tag

local socket='--socket[of the daemon]:socket:_files'
if ((CURRENT == 2)); then
	local -a commands=(
		'daemon:own the tag device'
		'exec:run a command as a task'
		'enter:begin a segment of a script'
		'exit:end a segment of a script'
		'status:print the migration and the tasks'
		'watch:print what changes'
	)
	_describe command commands
	return
fi
local command=$words[2]
shift words
((CURRENT--))
case $command in
daemon)
	_arguments $socket '--group[whose members may connect]:group:_groups' \
		'--device[its folder]:folder:_files -/' '--wake[how often it wakes up]:time:' \
		'--lease[wake-ups until its tasks are forgotten]:number:'
	;;
exec)
	_arguments $socket '(--between)--while[the run is the segment]' \
		'(--while)--between[everything but the runs is]' \
		'(-)1:command:_command_names -e' '*::arguments:_normal'
	;;
enter | exit) _arguments $socket '1:task:' ;;
status | watch) _arguments $socket '--json[an object a line]' '1:task:' ;;
esac
