const std = @import("std");

pub fn main() void {
    var value = std.mem.zeroes([201]usize); // Grundy's, of a heap of each size
    for (0..201) |size| {
        var reached = std.mem.zeroes([32]bool);
        if (size >= 2) reached[value[size - 2]] = true;
        var root: usize = 1;
        while (root * root <= size) : (root += 1) reached[value[size - root * root]] = true;
        while (reached[value[size]]) value[size] += 1;
    }
    var total: u64 = 0;
    for (1..201) |b| {
        for (1..b + 1) |a| {
            if (value[a] == value[b]) total += a * b;
        }
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
