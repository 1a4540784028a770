const std = @import("std");

const people = 4001;

pub fn main() void {
    var standing: [people]u64 = undefined;
    for (0..people) |i| standing[i] = i + 1;
    var place: usize = 0;
    var sum: u64 = 0;
    for (0..people) |gone| {
        const left = people - gone;
        place = (place + gone) % left;
        if (left <= 5) sum += standing[place];
        for (place..left - 1) |i| standing[i] = standing[i + 1];
    }
    print(sum);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
